"""Which mask belongs to which image where their names differ.

Equal names are certain. A *rule of names* is taken by itself if no mask has the name of an image, every mask has its
image by the one rule, and no two masks have the same: `a_mask` for `a`, `mask_a` for `a`, `a.png` for `a` (a file
`a.png.png`), `a` or `a_seg` for `a_0000`, `mask_a` for `img_a` (but `smith_1` is no mask of `jones_1`). In any other
case a rule only serves a hint.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

TOKEN = re.compile(r"[^_\-. ]+")
OF_MASKS = (
    "mask masks seg segm segmentation segmented label labels labelled lbl gt truth groundtruth manual anno annot "
    "annotation contour lesion roi target expert"
)
OF_IMAGES = "image images img imgs im input raw orig original photo picture pic scan training"
MASK_WORDS, IMAGE_WORDS = frozenset(OF_MASKS.split()), frozenset(OF_IMAGES.split())
"""Small letters; where a part stands for another, one of these must say that it is a mask's or an image's."""

FIRST_CHANNEL = "_0000"
"""What nnU-Net adds to the name of an image of one channel."""


@dataclass(frozen=True)
class NameRule:
    """How the name of a mask follows from that of its image: one part of it is another.

    Attributes:
        of_image: The part of the image's name, `""` where the mask's has one more.
        of_mask: The part of the mask's name, `""` where the image's has one more.
        token: Which token differs where both have a part; else -1 for the end of the name and 0 for its beginning.
    """

    of_image: str
    of_mask: str
    token: int

    def __str__(self) -> str:
        if self.of_image and self.of_mask:
            return f"{self.of_mask!r} in a mask's name stands for {self.of_image!r} in its image's"
        longer, part = ("mask", self.of_mask) if self.of_mask else ("image", self.of_image)
        place = "ends in" if self.token == -1 else "begins with"
        return f"a {longer}'s name {place} {part!r}, else it is that of its {'image' if longer == 'mask' else 'mask'}"


def shared_rule(images: Collection[str], masks: Collection[str]) -> tuple[NameRule, dict[str, str]] | None:
    """The one rule by which every mask has an image of its own.

    Args:
        images: Stems.
        masks: Stems, none of which is that of an image.

    Returns:
        The rule, and mask -> image; None where there is no such rule, or more than one way to pair.
    """
    if not masks:
        return None
    rules: dict[NameRule, dict[str, str]] = defaultdict(dict)
    index = _Index(images)
    for number, mask in enumerate(masks):
        for rule, image in index.candidates(mask):
            # A rule that an earlier mask does not follow is out already.
            if len(rules[rule]) == number:
                rules[rule][mask] = image
        rules = defaultdict(dict, {rule: pairs for rule, pairs in rules.items() if len(pairs) > number})
        if not rules:
            return None
    whole = [(rule, pairs) for rule, pairs in rules.items() if len({*pairs.values()}) == len(masks)]
    different = {tuple(sorted(pairs.items())) for _, pairs in whole}
    return whole[0] if len(different) == 1 else None


def likely_image(mask: str, images: Collection[str]) -> str | None:
    """The image a mask is probably meant for, for a hint.

    Names that differ in capital letters, separators or leading zeros count as well as the rules; where neither finds
    one, names that are equal without the words of masks and images (`seg-b_gt` and `b_image`).

    Args:
        mask: Stem.
        images: Stems.
    """
    plain = [image for image in images if _plain(image) == _plain(mask)]
    if plain:
        return plain[0]
    bare = _plain(_without_words(mask, MASK_WORDS))
    found = {image for _, image in _Index(images).candidates(mask)} or {
        image for image in images if bare and _plain(_without_words(image, IMAGE_WORDS)) == bare
    }
    return next(iter(found)) if len(found) == 1 else None


class _Index:
    """Image stems, by what a mask's name may have in common with them."""

    def __init__(self, images: Collection[str]) -> None:
        self.images = set(images)
        self.shorter: dict[str, list[tuple[NameRule, str]]] = defaultdict(list)
        self.gaps: dict[tuple[str, int, str], list[tuple[str, str]]] = defaultdict(list)
        for image in images:
            for rest, part, end in _without_a_part(image):
                if part == FIRST_CHANNEL or _has_word(part, IMAGE_WORDS):
                    self.shorter[rest].append((NameRule(part, "", end), image))
            for before, number, token, after in _gaps(image):
                self.gaps[before, number, after].append((token, image))

    def candidates(self, mask: str) -> Iterable[tuple[NameRule, str]]:
        """Images whose name becomes that of the mask by one change, with the rule."""
        for rest, part, end in _without_a_part(mask):
            if rest in self.images and re.search(r"[^\W\d_]", part):
                yield NameRule("", part, end), rest
        yield from self.shorter.get(mask, ())
        for before, number, token, after in _gaps(mask):
            for other, image in self.gaps.get((before, number, after), ()):
                if other != token and (_has_word(token, MASK_WORDS) or _has_word(other, IMAGE_WORDS)):
                    yield NameRule(other, token, number), image


def _without_a_part(name: str) -> Iterable[tuple[str, str, int]]:
    """(rest, part, -1 or 0) for each ending and beginning that may be taken off at a separator."""
    for found in re.finditer(r"[_\-. ]+", name):
        if found.start() > 0 and found.end() < len(name):
            yield name[: found.start()], name[found.start() :], -1
            yield name[found.end() :], name[: found.end()], 0


def _gaps(name: str) -> Iterable[tuple[str, int, str, str]]:
    """(before, number, token, after) for each token with letters, as long as the rest of the name says something."""
    tokens = list(TOKEN.finditer(name))
    for number, found in enumerate(tokens):
        word = re.match(r"[^\W\d_]+", found[0])
        if word is None:
            if number > 0 and found.end() == len(name) and name.endswith(FIRST_CHANNEL):
                yield name[: found.start()], number, found[0], ""
            continue
        # `img12` and `mask12` differ in the word alone, `21_training` and `21_manual1` in the whole token.
        for end in {found.start() + word.end(), found.end()}:
            before, after = name[: found.start()], name[end:]
            if re.search(r"\w", before + after):
                yield before, number, name[found.start() : end], after


def _has_word(token: str, words: Collection[str]) -> bool:
    return any(word in words for word in re.findall(r"[^\W\d_]+", token.lower()))


def _without_words(name: str, words: Collection[str]) -> str:
    return "_".join(token for token in TOKEN.findall(name) if not _has_word(token, words))


def _plain(name: str) -> str:
    """Without capital letters, separators and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", "".join(TOKEN.findall(name.lower().replace("__", "_"))))
