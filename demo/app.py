"""A page on which the captioner, the generator and SkyCLIP can be tried, on this machine only.

python demo/app.py
python demo/app.py --diffusion.adapter runs/quickstart/diffusion/adapter --captioner.adapter runs/quickstart/captioner/adapter
python demo/app.py CONFIG.yaml --studio.images runs/scored --studio.training DATA --rate runs/scores --audit runs/audit
"""

from __future__ import annotations

from typing import Final

import gradio as gr

from demo import serving
from demo.rating import add_rating
from demo.rating_room import RatingRoom
from demo.studio import Config, Studio
from demo.tabs.about import add_about
from demo.tabs.caption import add_captioning
from demo.tabs.compare import add_comparing
from demo.tabs.generate import add_generating
from demo.tabs.parts import COMPUTING, explaining
from demo.tabs.score import add_scoring
from demo.tabs.search import add_searching
from skygen.evaluation.ratings.ballots import BallotSettings, read_questionnaire
from skygen.evaluation.ratings.store import RatingStore
from skygen.runs import launch, logger

TITLE: Final = "# skygen\nCaptions and synthetic images for remote sensing, judged by SkyCLIP."
WAITING_AT_MOST: Final = 16


def build(studio: Studio, config: Config | None = None) -> gr.Blocks:
    """Build the page; nothing is loaded, and nothing is served.

    Args:
        studio: does what the page's buttons ask for.
        config: what is shown beside it: runs to compare and to rate, an audit.

    Raises:
        ConfigError: there is nothing to rate, or no audit, where one is named.
        DataError: what is named cannot be read.
    """
    config = config or Config()

    def warm_up() -> None:
        with explaining():
            studio.warm_up()

    # `delete_cache`: hourly, what is older than an hour
    with gr.Blocks(title="skygen", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(TITLE)
        with gr.Tab("Generate"):
            add_generating(studio)
        with gr.Tab("Caption"):
            add_captioning(studio)
        with gr.Tab("Score"):
            add_scoring(studio)
        with gr.Tab("Search"):
            add_searching(studio)
        with gr.Tab("Compare"):
            add_comparing(config.runs)
        if config.rate:
            with gr.Tab("Rate"):
                questionnaire = read_questionnaire(config.rate, BallotSettings())
                add_rating(RatingRoom(questionnaire, RatingStore(config.ratings)))
        with gr.Tab("About"):
            add_about(studio, config.audit)
        # the models are read when somebody opens the page, so that the first picture does not wait for them
        page.load(warm_up, api_visibility="private", show_progress="hidden", **COMPUTING)
    return page.queue(max_size=WAITING_AT_MOST, default_concurrency_limit=1, api_open=False)


def main(config: Config) -> None:
    """Open the page and serve it until it is interrupted or asked to end."""
    with serving.opening(config.server) as folder:
        studio = Studio(config, folder)
        page = build(studio, config)
        logger.info(f"The demo: {serving.address(config.server)} (Ctrl-C ends it)")
        try:
            serving.serve(page, config.server, folder)
        finally:
            studio.close()


if __name__ == "__main__":
    launch(main, Config)
