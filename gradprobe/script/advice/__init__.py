"""What to change in a script, as lines that run when they are pasted, or in words where no line can be right."""
