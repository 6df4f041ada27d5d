"""The image formats that fastconv opens, their file endings, and the limits of one image."""

import importlib
import importlib.util
import io
import warnings
from collections.abc import Iterable
from functools import cache

from PIL import Image, UnidentifiedImageError

from fastconv.system.errors import InputError

# Pillow's names of the formats, with the endings of their files. Left out: formats that start another program (EPS),
# documents, videos and vector graphics (PDF, MPEG, WMF), scientific containers whose values Pillow does not scale
# (FITS, HDF5, GRIB), and formats that any file passes for.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # Pillow opens .mpo, several JPEGs in one file, as a JPEG
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "DIB": (".dib",),
    "ICO": (".ico",),
    "PCX": (".pcx",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),  # last: it has no signature to be told by
}
# Photographs of phones, which Pillow opens once the package pillow-heif is installed.
HEIF_ENDINGS = (".heic", ".heics", ".heif", ".heifs", ".hif")
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
INSTALL_HEIF = "Install pillow-heif to read .heic files"
# What such files begin with, from their fifth byte on.
_HEIF_BRANDS = tuple(
    b"ftyp" + brand
    for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings) + HEIF_ENDINGS * HAS_HEIF

# The most pixels of one image, from anywhere. A file that claims more is made to fill the memory: a photograph of the
# largest camera has 151 million. Decoded, so many take 1 GB.
MOST_PIXELS = 2**28
TOO_LARGE = f"more than {MOST_PIXELS / 1e6:.0f} million pixels"
# Pillow would refuse photographs of 179 million pixels, twice its limit, and warn of half as many.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MOST_PIXELS // 2)
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@cache
def _openable() -> tuple[str, ...]:
    """The formats that this Pillow opens, those of installed plugins included."""
    Image.init()
    if HAS_HEIF:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in (*FORMATS, "HEIF") if name in Image.OPEN)


def heif_advice(names: Iterable[str]) -> str:
    """The sentence that says what reads files of these names; empty unless one of them needs the absent pillow-heif."""
    return INSTALL_HEIF if not HAS_HEIF and any(name.lower().endswith(HEIF_ENDINGS) for name in names) else ""


def open_image(content: bytes) -> Image.Image:
    """Open an image from the bytes of its file, whatever its name; only the header is decoded.

    Raises Pillow's errors for what is not an image of `FORMATS`, and InputError for an empty image, one that is too
    large, and one that needs pillow-heif.
    """
    if not content:
        raise InputError("empty")
    try:
        image = Image.open(io.BytesIO(content), formats=_openable())
    except UnidentifiedImageError as error:
        if not HAS_HEIF and content[4:].startswith(_HEIF_BRANDS):
            raise InputError(INSTALL_HEIF) from error
        raise
    if image.width * image.height > MOST_PIXELS:
        raise InputError(TOO_LARGE)
    return image
