"""`cumulusd doctor`: does a configuration fit this machine and the running engine?"""
