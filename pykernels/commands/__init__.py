"""The commands of the command line, one file a command; each is imported only when it is typed."""
