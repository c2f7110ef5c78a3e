from __future__ import annotations

import numpy as np


def test_a_device_installs_what_its_channel_names_and_answers_as_the_bundle(
    run, publisher, versions
):
    device = run()
    offer = publisher.publish(versions[0], "1")
    device.serves(offer)

    answer = device.device.predict(np.ones((2, 4)))
    assert answer["probabilities"].shape == (2, 2)
