"""What a run leaves behind, written and read."""

STUDENT_FILE = "student.safetensors"
CHECKPOINT_FILE = "checkpoint.pt"
CALIBRATION_FILE = "calibration.json"
DISTILLED_FOLDER = "distilled"
DISTIL_FILE = "distil.json"
"""Files of a run that are also looked for beside a student that was moved out of its run."""
