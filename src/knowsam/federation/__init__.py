"""Training across sites whose images stay where they are: the plan, server and sites, who carries their messages."""
