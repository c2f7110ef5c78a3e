"""Ask the server for two flights; the second has no weather report."""

import sys

import pandas as pd

import bascule

FLIGHTS = pd.DataFrame(
    {
        "carrier": ["AA", "UA"],
        "origin": ["JFK", "EWR"],
        "dest": ["MIA", "SFO"],
        "hour": [17, 9],
        "distance": [1089, 2565],
        "temp": [39.0, None],
        "wind_dir": [270.0, None],
        "wind_speed": [12.7, None],
        "pressure": [1012.0, None],
        "visib": [10.0, None],
    }
)


def main(url: str = "http://127.0.0.1:8080") -> None:
    with bascule.Client(url, model="flight-time") as client:
        answer = client.predict(FLIGHTS)
    for place, minutes in enumerate(answer["prediction"]):
        flight = FLIGHTS.iloc[place]
        low, high = answer["lower"][place], answer["upper"][place]
        print(f"{flight.origin} to {flight.dest}: {minutes:.0f} min, {low:.0f} to {high:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
