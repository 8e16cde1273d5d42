"""What a site's data is, how it is read, split and partitioned."""
