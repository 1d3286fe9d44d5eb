"""
The neural rival: a character CNN in the manner of URLNet, on the CPU.

After Le, Pham, Sahoo and Hoi, "URLNet: Learning a URL Representation with Deep Learning for
Malicious URL Detection" (2018), its character branch: characters become vectors of 32, filters of
3, 4, 5 and 6 characters run over them, each keeps its greatest value, and fully connected layers
with dropout weigh those.  Smaller where two cores ask for it: 128 filters of each width instead of
256, two connected layers instead of four, texts cut at 128 characters instead of 200.

Rows of similar length share a batch, as padding would be most of the work; the batches come in
random order.  Needs PyTorch, of the extra ``rivals``.  The same rows give the same scores on one
machine; between machines float arithmetic may differ.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Progress = Callable[[str, int, int], None]

CHARACTERS = 128  # of an item that are read
EPOCHS = 3
BATCH = 256
SEED = 1
THREADS = 2
LEARNING_RATE = 1e-3
_ALPHABET = 98  # padding, what is not printable ASCII, a mark for the begin, printable ASCII
_OTHER, _BEGIN = 1, 2


class Net(nn.Module):
    """Characters in, log-odds out."""

    WIDTHS = (3, 4, 5, 6)
    FILTERS = 128
    VECTOR = 32
    HIDDEN = 256

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(_ALPHABET, self.VECTOR, padding_idx=0)
        self.filters = nn.ModuleList(
            nn.Conv1d(self.VECTOR, self.FILTERS, width, padding=width // 2) for width in self.WIDTHS
        )
        self.weigh = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(self.FILTERS * len(self.WIDTHS), self.HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(self.HIDDEN, 1),
        )

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Log-odds of a batch of shape (rows, characters)."""
        vectors = self.vectors(codes).transpose(1, 2)
        greatest = [torch.relu(each(vectors).amax(dim=2)) for each in self.filters]
        return self.weigh(torch.cat(greatest, dim=1)).squeeze(1)


def fit_predict(
    items: Sequence[str],
    labels: Sequence[int],
    tests: Sequence[str],
    progress: Progress = lambda words, done, total: None,
) -> NDArray[np.float64]:
    """
    Learn from labelled rows and score others; see `linear.fit_predict` for arguments.

    Sets PyTorch's seed, threads and determinism for the whole process.

    Returns:
        Log-odds, one for each test; higher is worse.
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    random = np.random.default_rng(SEED)

    codes = [encoded(item) for item in items]
    wanted = np.asarray(labels, dtype=np.float32)
    net = Net()
    steps = EPOCHS * -(-len(items) // BATCH)
    optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    # Falls to nothing over the run: with three epochs no other way to settle.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2 * LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    loss_of = nn.BCEWithLogitsLoss()
    net.train()
    done = 0
    for _ in range(EPOCHS):
        for rows in batches(codes, random):
            optimiser.zero_grad(set_to_none=True)
            loss = loss_of(net(padded(codes, rows)), torch.from_numpy(wanted[rows]))
            loss.backward()
            optimiser.step()
            schedule.step()
            done += 1
            progress("cnn: training", done, steps)

    net.eval()
    codes = [encoded(test) for test in tests]
    scores = np.zeros(len(tests))
    with torch.inference_mode():
        for rows in batches(codes, None):
            scores[rows] = net(padded(codes, rows)).numpy()
    return scores


def encoded(item: str) -> NDArray[np.uint8]:
    """The codes of an item's first characters, a mark before them."""
    text = item[:CHARACTERS].encode("utf-8", "replace")[:CHARACTERS]
    octets = np.frombuffer(text, dtype=np.uint8)
    printable = (octets > 0x20) & (octets < 0x7F)
    return np.concatenate([[_BEGIN], np.where(printable, octets - 0x20 + _BEGIN, _OTHER)]).astype(
        np.uint8
    )


def batches(
    codes: Sequence[NDArray[np.uint8]], random: np.random.Generator | None
) -> Iterator[NDArray[np.int64]]:
    """
    Row numbers of one batch after the other, each of rows of about one length.

    With `random`, rows of one length are mixed, and so is the order of the batches.
    """
    lengths = np.array([each.size for each in codes], dtype=np.float64)
    if random is not None:
        lengths += random.uniform(0, 2, lengths.size)
    order = np.argsort(lengths, kind="stable")
    parts = [order[start : start + BATCH] for start in range(0, order.size, BATCH)]
    if random is not None:
        random.shuffle(parts)
    yield from parts


def padded(codes: Sequence[NDArray[np.uint8]], rows: NDArray[np.int64]) -> torch.Tensor:
    """One batch, filled up with zeros to its longest row and to the widest filter at least."""
    width = max(max(codes[row].size for row in rows), max(Net.WIDTHS))
    block = np.zeros((rows.size, width), dtype=np.int64)
    for place, row in enumerate(rows):
        block[place, : codes[row].size] = codes[row]
    return torch.from_numpy(block)
