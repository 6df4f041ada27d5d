"""Many runs side by side: groups over seeds, tables, figures, significance, and pages."""
