"""What people look at: a run's HTML report, pictures of molecules, tables that compare runs."""
