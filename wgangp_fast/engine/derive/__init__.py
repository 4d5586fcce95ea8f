"""From the critic's graph and the rule table to the sweeps, as FX graphs."""
