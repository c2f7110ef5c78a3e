from .ledger import Ledger as Ledger, Outcomes as Outcomes
