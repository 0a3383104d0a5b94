"""A plan or a run as one HTML file that needs no network: what goes in, its pictures, and the page."""
