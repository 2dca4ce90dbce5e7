"""What people call on the command line with models and results of their own, a module for each
command, over the library and the files of runs."""
