"""What hides a site's update: noise with an account of it, and masks that cancel in the sum."""
