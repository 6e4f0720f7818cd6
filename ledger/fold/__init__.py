"""What certified entries amount to: the effects of each log alone, the money of all, and every movement explained."""
