"""weights -> text: which token comes next, and one after another."""
