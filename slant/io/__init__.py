"""Read scans, write results, and load the tables and templates that ship with the package."""
