"""text/sample"""
