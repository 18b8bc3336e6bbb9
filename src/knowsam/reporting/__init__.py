"""`report.html`: one self-contained page about a run, for a person who must decide whether to trust it."""
