"""How good a student is, and how closely it follows its teacher."""
