"""The wizard's screens, in the order in which they follow one another."""
