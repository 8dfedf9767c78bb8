"""What a load needs: rates from a few facts about the users, and cores, memory and disk from what one of each costs.

Pure, all but the reading of `costs.json`, which `python -m bench.costs` writes. It never measures, and it invents no figure: a
cost that nobody has measured yet says "assumed" wherever it counts.
"""
