"""What a person sees: pictures, orientation of slices, numbers in words, tables, progress bars."""
