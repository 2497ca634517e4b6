"""Why a network does not learn: what is read from a history, and a rule for each cause. No torch."""
