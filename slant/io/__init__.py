"""Reading scans, writing results, and the tables and templates that ship with the package."""
