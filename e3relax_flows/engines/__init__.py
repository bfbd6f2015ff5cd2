"""DFT codes and potentials as values that flows can hold."""
