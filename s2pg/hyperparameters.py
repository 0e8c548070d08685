"""What a method and an algorithm are made of: the memory axis and the hyperparameters, as frozen records. A leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class ConfigError(ValueError):
    """A mistake in a configuration. The message names the file, the key and what is allowed."""


@dataclass(frozen=True)
class MethodConfig:
    """A point on the memory axis (`methods.yaml`)."""

    kind: Literal["none", "window", "recurrent", "random", "expert"]
    context: int | None  # L, steps that the memory is unrolled in learning; None = the whole episode
    decides: bool  # True: the next memory is part of the decision u = (a, z') (S2PG)
    loss_on: Literal["last", "all"]  # the loss is taken at the last step of a context, or at every step
    cell: Literal["gru", "gru_cleared", "lstm", "rnn", "diagonal"]
    sight: Literal["blind", "privileged", "oracle"]  # who reads which observation groups

    @property
    def learns(self) -> bool:
        """False for what normalises scores: uniformly random actions, and the expert's recorded episodes."""
        return self.kind not in ("random", "expert")

    def __post_init__(self) -> None:
        if self.decides and (self.kind, self.context) != ("recurrent", 1):
            raise ConfigError(f"memory.decides: true needs kind recurrent and context 1, not {self}")
        if self.context is None and (self.kind, self.loss_on) != ("recurrent", "all"):
            raise ConfigError(f"memory.context: null (whole episodes) needs kind recurrent and loss_on all, not {self}")


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO (`hparams/ppo.yaml`)."""

    gamma: float
    gae_lambda: float
    rollout: int  # environment steps per update, over all environments
    num_envs: int
    passes: int  # times that the rollout is gone through per update
    minibatch: int  # loss terms per minibatch
    lr_policy: float
    lr_value: float
    clip: float
    entropy: float  # coefficient of the entropy bonus
    max_grad_norm: float | None  # None = no gradient clipping
    sigma_action: float  # initial standard deviation of a
    sigma_memory: float  # initial standard deviation of z' (read when the memory decides)
    memory_size: int  # Z of a recurrent memory
    features: int  # width of a recurrent memory's embeddings
    policy_head: tuple[int, ...]  # hidden widths after the memory
    value_head: tuple[int, ...]
    policy_gain: float  # factor on the Xavier gain of linear layers
    value_gain: float
    previous_action: bool  # does the network see the previous action
    observation_clip: float | None  # normalised observations are cut to +- this; None = not normalised
    leak: float = 1.0  # rho in z' = (1 - rho) z + rho h (1 in runs made before it could be chosen)


@dataclass(frozen=True)
class OffPolicyConfig:
    """Hyperparameters that SAC and TD3 share."""

    gamma: float
    rollout: int  # environment steps per update, over all environments
    num_envs: int
    replay: int  # steps that the replay holds
    warmup: int  # environment steps before the critic learns
    batch: int  # loss terms per gradient step
    updates: int  # gradient steps per update
    lr_policy: float
    lr_value: float
    tau: float  # rate at which target networks follow
    refresh: bool  # relabel the stored z' of a batch with fresh ones (of a decided memory; of any in an expert's steps)
    sequence_start: Literal["stored", "zero", "burn_in"]  # memory before the first step of a context
    burn_in: int  # steps before a context that only warm the memory up, >= 1 (read with sequence_start: burn_in)
    memory_size: int  # Z of a recurrent memory
    features: int  # width of a recurrent memory's embeddings
    leak: float  # rho in z' = (1 - rho) z + rho h
    policy_head: tuple[int, ...]  # hidden widths after the memory
    value_head: tuple[int, ...]
    value_encoder: tuple[int, ...]  # widths of the encoders of (z,z'), (s,a,a-), (a,a-) before value_head; empty: none
    policy_gain: float  # factor on the Xavier gain of linear layers
    value_gain: float  # of hidden layers
    value_output_gain: float  # of the last layer
    previous_action: bool  # does the policy see the previous action
    value_previous_action: bool  # does the critic
    observation_clip: float | None  # normalised observations are cut to +- this; None = not normalised

    def __post_init__(self) -> None:
        if self.observation_clip is not None:
            raise ConfigError(
                "hparams.observation_clip: must be null for sac, td3 and lsiq: a replay holds what was observed"
            )
        check_at_least("hparams.replay", self.replay, "hparams.warmup", self.warmup)


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Hyperparameters of SAC (`hparams/sac.yaml`)."""

    warmup_policy: int  # environment steps before policy and temperatures learn
    lr_temperature: float
    lr_temperature_memory: float
    temperature: float  # initial, of a
    temperature_memory: float  # initial, of z'
    target_entropy: float  # per dimension of a
    target_entropy_memory: float  # per dimension of z'
    backup: tuple[float, ...]  # weights of the entropies of a and z' in the target
    sigma_action: float  # initial standard deviation of a before the squash, where the observation is zero
    memory_sigma: Literal["fixed", "learned", "state"]  # what the standard deviation of z' is
    sigma_memory: float  # initial or fixed standard deviation of z'
    memory_noise: Literal["gaussian", "uniform"]
    # z' is x, or tanh(x): around the cell's own state, if that is bounded (once), or of it (twice, as the reference)
    squash_memory: Literal[False, "once", "twice"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("hparams.warmup_policy", self.warmup_policy, "hparams.warmup", self.warmup)
        check_at_least("hparams.replay", self.replay, "hparams.warmup_policy", self.warmup_policy)


@dataclass(frozen=True)
class TD3Config(OffPolicyConfig):
    """Hyperparameters of TD3 (`hparams/td3.yaml`). Noise on a is in units of half the action range."""

    delay: int  # updates of the critic per update of the policy
    sigma_action: float  # exploration
    sigma_memory: float
    smoothing_action: float  # noise on the target's decision, and where it is cut off
    smoothing_action_clip: float
    smoothing_memory: float
    smoothing_memory_clip: float


@dataclass(frozen=True, kw_only=True)
class GAILConfig(PPOConfig):
    """PPO's hyperparameters, and those of the discriminator that makes its reward (`hparams/gail.yaml`)."""

    value_previous_action: bool  # does the critic see the previous action, where it sees other things than the policy
    discriminator_sees: Literal["action", "next"]  # D(s, a) or D(s, s'); never z
    discriminator_head: tuple[int, ...]  # hidden widths
    discriminator_batch: int  # steps of the policy, and as many of the expert
    discriminator_every: int  # learns after every so many updates of the policy
    discriminator_passes: int  # gradient steps each time
    discriminator_entropy: float  # coefficient of the entropy bonus
    lr_discriminator: float
    imitation_reward: Literal["softplus", "log", "logit", "least_squares"]  # what D is turned into

    def __post_init__(self) -> None:
        check_at_least("hparams.rollout", self.rollout, "hparams.discriminator_batch", self.discriminator_batch)


@dataclass(frozen=True, kw_only=True)
class LSIQConfig(SACConfig):
    """SAC's hyperparameters, and those of the loss that takes the place of its critic's (`hparams/lsiq.yaml`)."""

    imitation_loss: Literal["lsiq", "iq"]
    critics: int  # Q functions, of which the least counts
    expert_batch: int  # loss terms of the expert per gradient step
    regulariser: float  # c of the chi-squared regulariser; rewards lie in [-1/c, 1/c]
    expert_target: Literal["fixed", "bootstrap"]  # of LS-IQ: Q_max, or r_max and the value of the successor
    clip_target: bool  # is the successor's value clipped to [Q_min, Q_max]
    absorbing: bool  # does a terminal step count as one that is repeated for ever
    iq_value: Literal["value", "value_expert", "v0"]  # of IQ-Learn: whose states the value term is taken at
    iq_regularised: Literal["expert", "both"]  # of IQ-Learn: whose implicit rewards are regularised


@dataclass(frozen=True, kw_only=True)
class BCConfig(PPOConfig):
    """Behavioural cloning: PPO's networks, trained on the expert's actions (`hparams/bc.yaml`)."""


Hparams = PPOConfig | SACConfig | TD3Config
ALGORITHMS: dict[str, type[Hparams]] = {
    "ppo": PPOConfig,
    "sac": SACConfig,
    "td3": TD3Config,
    "gail": GAILConfig,
    "lsiq": LSIQConfig,
    "bc": BCConfig,
}
IMITATION = ("gail", "lsiq", "bc")  # algorithms that learn from an expert's dataset


def check_multiple(key: str, value: int, of: str, unit: int) -> None:
    """ConfigError, naming both keys, unless `value` is a multiple of `unit`."""
    if value % unit:
        raise ConfigError(f"{key}: {value} is not a multiple of {of}: {unit}")


def check_at_least(key: str, value: int, of: str, least: int) -> None:
    """ConfigError, naming both keys, if `value` is below `least`."""
    if value < least:
        raise ConfigError(f"{key}: {value} is less than {of}: {least}")
