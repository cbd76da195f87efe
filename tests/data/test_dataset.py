import numpy as np
from PIL import Image

from imgclf.card import Preprocessing
from imgclf.data.dataset import SelectedImages, from_arrays


def test_images_for_a_network_of_another_size_are_resized_by_pillow(photographs) -> None:
    squares = np.ascontiguousarray(photographs[:, :37, :37])
    dataset = from_arrays("photos", squares, np.zeros(len(squares), int), ("a", "b"))
    chosen = SelectedImages(dataset, np.array([4, 1]), Preprocessing.identity(20, 20, 3))
    expected = [
        Image.fromarray(squares[position]).resize((20, 20), Image.Resampling.BILINEAR)
        for position in (4, 1)
    ]
    np.testing.assert_array_equal(chosen[:10], np.stack([np.asarray(image) for image in expected]))
    np.testing.assert_array_equal(chosen[1:], chosen[:10][1:])
