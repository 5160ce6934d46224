"""The names that `import privynet_jax` offers, and where each is imported from when it is used."""

from .backbone.cost import (
    LocalCost as LocalCost,
)
from .backbone.cost import (
    local_cost as local_cost,
)
from .backbone.split import (
    local_nn as local_nn,
)
from .backbone.split import (
    local_params as local_params,
)
from .backbone.topology import (
    CONV_LAYERS as CONV_LAYERS,
)
from .backbone.topology import (
    ConvLayer as ConvLayer,
)
from .backbone.topology import (
    Topology as Topology,
)
from .backbone.weights.sources import (
    PretrainedWeights as PretrainedWeights,
)
from .backbone.weights.sources import (
    load_weights as load_weights,
)
from .characterisation.config import (
    Config as Config,
)
from .characterisation.run import (
    Characterisation as Characterisation,
)
from .characterisation.run import (
    characterise as characterise,
)
from .deployment.cloud.classifier import (
    Classifier as Classifier,
)
from .deployment.cloud.classifier import (
    open_classifier as open_classifier,
)
from .deployment.device.local_package import (
    LocalPackage as LocalPackage,
)
from .deployment.device.local_package import (
    open_package as open_package,
)
from .deployment.device.local_package import (
    write_package as write_package,
)
from .deployment.release.release_folder import (
    Release as Release,
)
from .deployment.release.release_folder import (
    open_release as open_release,
)
from .errors import (
    UserError as UserError,
)
from .images.metrics import (
    psnr_db as psnr_db,
)
from .images.metrics import (
    ssim as ssim,
)
from .images.parts import (
    Part as Part,
)
from .images.parts import (
    Parts as Parts,
)
from .images.parts import (
    as_float as as_float,
)
from .images.parts import (
    load_parts as load_parts,
)
from .planning.plan import (
    Limits as Limits,
)
from .planning.plan import (
    Plan as Plan,
)
from .planning.plan_file import (
    read_plan as read_plan,
)
from .planning.plan_file import (
    write_plan as write_plan,
)
from .results.cells import (
    draw_channels as draw_channels,
)
from .results.cells import (
    grid_cells as grid_cells,
)
from .selection.pruning import (
    ChannelScores as ChannelScores,
)
from .selection.pruning import (
    channel_scores as channel_scores,
)
from .selection.pruning import (
    pruned_candidates as pruned_candidates,
)
from .training.networks import (
    attacker as attacker,
)
from .training.networks import (
    cloud_nn as cloud_nn,
)
