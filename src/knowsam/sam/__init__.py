"""Segment Anything as a second teacher: build or load, adapt, prompt, distil."""
