"""What a site's data must look like, as the plan agrees on it, and the card that says so."""
