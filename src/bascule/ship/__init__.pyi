from .building import build as build, push_image as push_image
from .facts import (
    IMAGE_TAG as IMAGE_TAG,
    ImageOptions as ImageOptions,
    packages_of as packages_of,
    shipment_of as shipment_of,
)
from .pipelines import (
    CHECKS as CHECKS,
    DELIVERY as DELIVERY,
    SYSTEMS as SYSTEMS,
    Project as Project,
    render_pipeline as render_pipeline,
)
from .rendering import (
    Files as Files,
    difference as difference,
    render_text as render_text,
    text_of as text_of,
    write_file as write_file,
    write_files as write_files,
)
from .sbom import ml_bill_of_materials as ml_bill_of_materials
from .scanning import findings_of as findings_of
from .shipment import (
    Cluster as Cluster,
    Package as Package,
    Resources as Resources,
    Shipment as Shipment,
    Shipped as Shipped,
    resources_of as resources_of,
    slug_of as slug_of,
    whole_shares as whole_shares,
)
from .targets import ROUTES as ROUTES, TARGETS as TARGETS
from .targets.port import Commands as Commands, Target as Target
