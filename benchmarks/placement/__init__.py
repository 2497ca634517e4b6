"""Is the placement right? Tasks, every placement trained on them, and the policies that had to choose one."""
