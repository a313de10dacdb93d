"""What an update of edgeemo costs beside what an update of others costs, in one run on the same clip."""
