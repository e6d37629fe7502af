"""What the command line does: one function a command, each returning the text it has to say."""
