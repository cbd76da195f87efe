"""Names that a person can type, with one line of meaning each.

No torch here: help, suggestions and checks of names are instant. The functions behind the names
live in `imgclf.data.sources` and `imgclf.models`; tests hold both lists against each other.
"""

from difflib import get_close_matches

DATASETS = {
    "digits": "1,797 real handwritten digits, 8x8 grey, from scikit-learn; needs no network",
}

MODELS = {
    "digits-cnn": "three 3x3 convolutions and a dense layer, for the 8x8 digits",
    "small-cnn": "VGG-style blocks with batch normalisation, for any size, channels and classes",
}


def nearest(name: str, names: object) -> str:
    """Return " Did you mean 'x'?" for the closest of ``names``, or nothing where none is close."""
    assert isinstance(names, (dict, tuple, list))
    matches = get_close_matches(name.lower().replace("_", "-"), list(names), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""
