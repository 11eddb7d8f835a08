"""The one exception that the command line answers with a message instead of a traceback."""


class UserError(ValueError):
    """Something the user can mend; the message says what was received, why it is wrong and what to do."""
