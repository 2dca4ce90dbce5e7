"""Preprocessing, held to Pillow's resampling and torchvision's crops."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.transforms import functional

from task_arithmetic.files.source import hold_out
from task_arithmetic.vision import pixels as prepared
from task_arithmetic.vision.images import read_split
from task_arithmetic.vision.pixels import crop_boxes, resample
from task_arithmetic.vision.prepare import write_task

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
BICUBIC = transforms.InterpolationMode.BICUBIC


def to_pixels(images, size, boxes=None):
    return prepared.to_pixels(images, size, MEAN, STD, boxes)


def picture(kind, height, width):
    """A uint8 image (H, W, 3): noise, or a piece of a photograph, which Pillow knows best."""
    if kind == "noise":
        return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = skimage.data.astronaut()
    return np.ascontiguousarray(photo[100 : 100 + height, 120 : 120 + width])


def levels(image, box, size):
    """Our resampling of one box of one image, in levels of 0–255, (S, S, 3)."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    ours = resample(pixels, torch.tensor([box]), size)
    return ours.round().clamp(0, 255)[0].permute(1, 2, 0).numpy()


SIZES = [(24, 24, 16), (32, 32, 24), (28, 28, 224), (224, 224, 32), (300, 300, 224), (17, 17, 31)]
OBLONG = [(40, 64, 32), (50, 44, 30)]  # of which every Pillow does the rows first


@pytest.mark.parametrize("height, width, size", SIZES + OBLONG)
@pytest.mark.parametrize("kind", ["noise", "photograph"])
def test_whole_images_are_resized_as_by_pillow(kind, height, width, size):
    image = picture(kind, height, width)
    pillow = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    difference = np.abs(levels(image, (0, 0, height, width), size) - np.asarray(pillow, float))
    assert difference.max() <= 1
    assert difference.mean() < 0.01  # only if levels are rounded and clipped between the passes


@pytest.mark.parametrize("height, width, size", [(24, 24, 24), (32, 32, 24), (224, 224, 224)])
@pytest.mark.parametrize("kind", ["noise", "photograph"])
def test_boxes_are_cropped_and_resized_as_by_torchvision(kind, height, width, size):
    image, generator = picture(kind, height, width), np.random.default_rng(0)
    least = size if size < height else height // 3  # Pillow 13 turns its passes round if one side
    # grows and the other shrinks
    for _ in range(8):
        h, w = generator.integers(least, height + 1, 2)
        top, left = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
        box = [int(x) for x in (top, left, h, w)]
        theirs = functional.resized_crop(Image.fromarray(image), *box, [size, size], BICUBIC)
        assert np.abs(levels(image, box, size) - np.asarray(theirs, float)).max() <= 1


def test_each_image_of_a_batch_gets_its_own_box():
    images = torch.randint(0, 256, (4, 3, 20, 20)).float()
    boxes = torch.tensor([[0, 0, 20, 20], [3, 5, 11, 9], [10, 10, 10, 10], [0, 19, 20, 1]])
    together = resample(images, boxes, 12)
    for i in range(4):
        alone = resample(images[i : i + 1], boxes[i : i + 1], 12)
        assert torch.allclose(together[i], alone[0], atol=1e-2)


def test_what_lies_outside_a_box_has_no_influence():
    images, other = torch.randint(0, 256, (2, 1, 3, 20, 20)).float()
    box = torch.tensor([[4, 6, 9, 10]])
    other[..., 4:13, 6:16] = images[..., 4:13, 6:16]
    assert torch.equal(resample(images, box, 16), resample(other, box, 16))


def test_a_whole_image_of_the_right_size_is_not_resampled():
    image = torch.from_numpy(picture("noise", 16, 16))
    assert np.array_equal(levels(image.numpy(), (0, 0, 16, 16), 16), image.numpy())
    boxes = torch.tensor([[0, 0, 16, 16]])
    plain, boxed = to_pixels(image[None], 16), to_pixels(image[None], 16, boxes)
    assert torch.equal(plain, boxed)


def test_pixels_are_normalised_as_by_torchvision():
    images = [picture("noise", 16, 16), picture("photograph", 16, 16)]
    ours = to_pixels(torch.from_numpy(np.stack(images)), 16)
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    theirs = torch.stack([normalise(Image.fromarray(image)) for image in images])
    assert ours.dtype == torch.float32 and ours.shape == (2, 3, 16, 16)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("stored, size", [(28, 224), (224, 32), (32, 24)])
def test_pixels_are_those_of_open_clips_preprocessing(stored, size):
    import open_clip

    image = picture("photograph", stored, stored)
    theirs = open_clip.image_transform(size, is_train=False, mean=MEAN, std=STD)
    ours = to_pixels(torch.from_numpy(image)[None], size)[0]
    level = 1 / 255 / min(STD)
    assert (ours - theirs(Image.fromarray(image))).abs().max() <= level + 1e-5


def test_resampled_pixels_are_whole_levels_within_range():
    """As the stored images are: bicubic overshoots at edges."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    pixels = to_pixels(torch.from_numpy(image)[None], 24)
    back = (pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
    assert torch.allclose(back, back.round(), atol=1e-3)
    assert back.min() > -1e-3 and back.max() < 255 + 1e-3


def crops(count, height, width, scale, generator):
    """Boxes of `count` images of one size."""
    return crop_boxes(torch.tensor([[height, width]]).expand(count, 2), scale, generator)


# --- Training crops ------------------------------------------------------------------------------

DRAWS = 4000


def torchvision_boxes(height, width, scale):
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    ratio = (3 / 4, 4 / 3)
    draw = transforms.RandomResizedCrop.get_params
    return np.array([draw(image, list(scale), list(ratio)) for _ in range(DRAWS)])


@pytest.mark.parametrize(
    "height, width, scale",
    [
        (224, 224, (0.9, 1.0)),
        (224, 224, (0.08, 1.0)),
        (200, 320, (0.9, 1.0)),
        (320, 230, (0.3, 0.7)),
        (32, 32, (0.9, 1.0)),
    ],
)
def test_training_crops_are_distributed_as_torchvisions(height, width, scale):
    ours = crops(DRAWS, height, width, scale, torch.Generator().manual_seed(1)).double().numpy()
    theirs = torchvision_boxes(height, width, scale)
    for name, a, b in zip(("top", "left", "height", "width"), ours.T, theirs.T, strict=True):
        error = np.sqrt((a.var() + b.var()) / DRAWS)
        assert abs(a.mean() - b.mean()) <= 4 * error, name
        assert ks_2samp(a, b).pvalue > 1e-3, name
    (area, ratio), (area2, ratio2) = [
        (x[:, 2] * x[:, 3], x[:, 3] / x[:, 2]) for x in (ours, theirs.astype(float))
    ]
    assert ks_2samp(area, area2).pvalue > 1e-3
    assert ks_2samp(ratio, ratio2).pvalue > 1e-3


def test_training_crops_lie_within_the_image_and_the_scale():
    boxes = crops(DRAWS, 48, 40, (0.5, 0.8), torch.Generator().manual_seed(0))
    assert boxes.shape == (DRAWS, 4) and boxes.dtype == torch.int64
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= 48).all() and (left + width <= 40).all()
    share = height * width / (48 * 40)
    assert share.min() > 0.48 and share.max() < 0.82  # sides are rounded to pixels


@pytest.mark.parametrize("height, width", [(20, 400), (400, 20), (10, 90)])
def test_an_image_that_no_crop_fits_gives_torchvisions_centre(height, width):
    expected = torchvision_boxes(height, width, (0.9, 1.0))[0]
    boxes = crops(50, height, width, (0.9, 1.0), torch.Generator().manual_seed(0))
    assert (boxes == torch.tensor(expected)).all()


def test_crops_are_a_function_of_the_generators_seed():
    def draw(seed):
        return crops(100, 32, 32, (0.5, 1.0), torch.Generator().manual_seed(seed))

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


# --- From photographs to pixels, through the data stage ------------------------------------------


def photographs():
    """Photographs of several sizes and shapes, each with as much detail as a camera gives."""
    china, flower = load_sample_images().images
    astronaut, coffee = skimage.data.astronaut(), skimage.data.coffee()
    pieces = [astronaut, skimage.data.chelsea(), coffee, china, flower, skimage.data.rocket()]
    pieces += [coffee[:, :260], china[:230], flower[:256, :256], astronaut[100:340, 50:290]]
    pieces += [china[:300, :301], coffee[:120, :110]]
    return [Image.fromarray(np.ascontiguousarray(piece)) for piece in pieces]


@pytest.fixture(scope="module")
def stored_photographs(tmp_path_factory):
    """The photographs as a task's train and test images, after the data stage."""
    root = tmp_path_factory.mktemp("photographs")
    for split in ("train", "test"):
        for i, photograph in enumerate(photographs()):
            path = root / "images" / split / ("first" if i < 6 else "last") / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph.save(path)
    definition = {"path": str(root / "images"), "validation": 1, "shared_images": 1}
    write_task("photographs", definition, root / "data")
    return root / "data"


def test_evaluation_pixels_are_open_clips_of_photographs_of_many_shapes(stored_photographs):
    import open_clip

    images, _ = read_split(stored_photographs, "test")
    ours = to_pixels(torch.from_numpy(np.array(images)), 224)
    transform = open_clip.image_transform(224, is_train=False, mean=MEAN, std=STD)
    level = torch.tensor(STD).view(3, 1, 1) * 255
    for pixels, photograph in zip(ours, photographs(), strict=True):
        assert ((pixels - transform(photograph)) * level).abs().max() <= 1.01


def test_crops_of_stored_train_images_look_as_crops_of_the_photographs(stored_photographs):
    """Of the whole image, so that no box is rounded: two resizings instead of torchvision's one."""
    images, _ = read_split(stored_photographs, "train")
    strata = [int(i >= 6) for i in range(len(photographs()))]
    kept, _ = hold_out(len(strata), 1, strata)
    level = torch.tensor(STD).view(3, 1, 1) * 255
    for number, index in enumerate(kept):
        batch, ((height, width),) = images.take([number])
        box = torch.tensor([[0, 0, height, width]])
        ours = to_pixels(torch.from_numpy(batch), 224, box)[0]
        whole = photographs()[index].resize((224, 224), Image.Resampling.BICUBIC)
        theirs = functional.normalize(functional.to_tensor(whole), MEAN, STD)
        difference = ((ours - theirs) * level).abs()
        assert difference.mean() < 2.5
        if min(photographs()[index].size) <= 256:  # stored as they are
            assert difference.max() <= 2.01 and difference.mean() < 0.05


@pytest.mark.parametrize("height, width", [(375, 500), (500, 334), (600, 1000), (1000, 700)])
def test_training_crops_are_distributed_as_the_references_on_the_original(height, width):
    """Boxes on the stored size, shortest side 256, are those on the original, in shares of it."""
    short = min(height, width)
    stored = [int(256 * side / short) for side in (height, width)]
    ours = crops(DRAWS, *stored, (0.9, 1.0), torch.Generator().manual_seed(1)).double().numpy()
    theirs = torchvision_boxes(height, width, (0.9, 1.0)) / short * 256
    for name, a, b in zip(("top", "left", "height", "width"), ours.T, theirs.T, strict=True):
        error = np.sqrt((a.var() + b.var()) / DRAWS) + 0.3  # a box has whole pixels
        assert abs(a.mean() - b.mean()) <= 4 * error, name
        assert abs(a.std() - b.std()) <= 0.1 * b.std() + 0.5, name


def test_padding_of_a_batch_never_reaches_a_crop(stored_photographs):
    images, _ = read_split(stored_photographs, "train")
    every = np.arange(len(images))
    batch, sizes = images.take(every)
    boxes = crop_boxes(torch.from_numpy(sizes), (0.9, 1.0), torch.Generator().manual_seed(2))
    together = to_pixels(torch.from_numpy(batch), 224, boxes)
    for i in every:
        alone = to_pixels(torch.from_numpy(images.take([i])[0]), 224, boxes[i : i + 1])
        assert torch.allclose(together[i], alone[0], atol=2 / 255 / min(STD))
