"""Every file that comes from outside, damaged at random: a sentence, or rejects with their reason, or a correct reading."""

from __future__ import annotations

import io
import json
import pickle
import resource
import shutil
import signal
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fabricated_runs import make_captions, make_evaluation
from faults.amounts import amount
from faults.figures import Figures
from faults.mutations import mutate
from PIL import Image
from safetensors.torch import save_file

from skygen.data.archives import close_archives, forget_archives
from skygen.data.benchmarks import read_class_folder
from skygen.data.images import open_image, read_size
from skygen.data.metas.meta import read_meta
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import SkygenError
from skygen.evaluation.comparison import compare_runs
from skygen.evaluation.reports.report import write_report
from skygen.generation.prompts import PromptSettings, read_prompts
from skygen.generation.provenance import read_label, save_synthetic
from skygen.generation.records import read_metadata
from skygen.models.weights import read_state_dict
from skygen.seeding import Seeds

pytestmark = pytest.mark.slow
