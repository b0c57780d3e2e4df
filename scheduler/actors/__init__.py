"""What acts: short modules around the store and the engines. They ask a policy what to do and then do it."""
