"""What a person sees, in pages, pictures and on the terminal."""
