"""How far results can be trusted: measures of a finished scan, its grade, and what to expect of every region."""
