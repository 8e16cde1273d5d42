"""What runs at the other end, by evidence of its hardware: made, sent, and verified by a policy."""
