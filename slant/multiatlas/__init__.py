"""Labels for new scans from labelled ones: registration of every pair, and fusion."""
