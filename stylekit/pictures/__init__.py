"""Pictures: files, conversions, jobs over folders, contact sheets."""
