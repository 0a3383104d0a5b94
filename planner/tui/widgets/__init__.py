"""Panes of the wizard's screens; each shows a snapshot it is handed and computes nothing."""
