"""Many scans: in parallel, resumed where they stopped, with a row for each that fails."""
