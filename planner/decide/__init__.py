"""From what a configuration takes to what to do: verdict, remedies, search, tiers, advice."""
