"""Dubai with the static dictionary only: the ablation beside d2ls.py, same recipe and number of steps."""

base = "d2ls.py"

weights_name = "static"
dictionary = "static"
