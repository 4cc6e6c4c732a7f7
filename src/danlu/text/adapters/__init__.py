"""text/adapters"""
