"""Score-based generative modeling with stochastic differential equations."""

__version__ = "0.1.0"
